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

{{/* Bytes of vmData that recordings may take. */}}
{{- define "dozlab.recordingBytes" -}}
{{- $t := .Values.terminal -}}
{{- ternary (include "dozlab.bytes" $t.recording.sizeLimit) "0" (and $t.enabled $t.recording.enabled) -}}
{{- end -}}

{{/* Bytes of vmData that disk, workspace and recordings leave; never 0, which would mean all that is free on the node. */}}
{{- define "dozlab.checkpointsLimit" -}}
{{- $v := .Values -}}
{{- $kept := add (include "dozlab.bytes" $v.rootfs.diskSize | int64) (include "dozlab.bytes" $v.volumes.workspace.sizeLimit | int64) (include "dozlab.recordingBytes" . | int64) -}}
{{- max 1 (sub (include "dozlab.bytes" $v.volumes.vmData.sizeLimit | int64) $kept) -}}
{{- end -}}

{{/* What a machine is, for the container that runs it and the one that prepares it: snapshots are for equal ones. */}}
{{- define "dozlab.vmEnv" -}}
{{- $v := .Values -}}
{{ include "dozlab.env" (list . "addresses" "tap") }}
- {name: CPU_COUNT, value: {{ include "dozlab.text" $v.vm.cpuCount | trim | quote }}}
- {name: MEMORY, value: {{ include "dozlab.text" $v.vm.memory | trim | quote }}}
- {name: VMM, value: {{ $v.firecracker.vmm }}}
- {name: REQUIRE_KVM, value: {{ $v.firecracker.requireKvm | quote }}}
{{- if $v.snapshot.enabled }}
- {name: SNAPSHOTS_DIR, value: /srv/vm/kernels/snapshots}
- {name: PROBE_CACHE, value: /srv/vm/kernels/snapshots/.probe.json}
{{- end }}
{{- end -}}
