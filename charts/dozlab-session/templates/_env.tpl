{{/* Environment shared by containers (ARCHITECTURE.md, Environment): (list $ group...); groups: addresses, tap, dns. */}}
{{- define "dozlab.env" -}}
{{- $root := first . -}}{{- $network := $root.Values.network -}}
- {name: SESSION_ID, value: {{ include "dozlab.id" $root | quote }}}
{{- range rest . }}
{{- if eq . "addresses" }}
- {name: GATEWAY_IP, value: {{ $network.gatewayIp | quote }}}
- {name: VM_IP, value: {{ $network.vmIp | quote }}}
{{- else if eq . "tap" }}
- {name: TAP_DEVICE_NAME, value: {{ $network.tapDevice | quote }}}
{{- else if eq . "dns" }}
- {name: DNS_SERVERS, value: {{ join "," $network.dns | quote }}}
{{- end }}
{{- end }}
{{- end -}}
