{{/* Names, labels and the small conversions that several templates need. */}}

{{/* A value as text; a number out of YAML is a float64 and would be printed as 1e+06. */}}
{{- define "dozlab.text" -}}
{{- if kindIs "float64" . -}}{{ int64 . }}{{- else if not (kindIs "invalid" .) -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Bytes of a size as dozlab writes it: powers of 1024, with and without the i. */}}
{{- define "dozlab.bytes" -}}
{{- $text := include "dozlab.text" . | trim | lower -}}
{{- $factors := dict "" 1 "k" 1024 "m" 1048576 "g" 1073741824 "t" 1099511627776 -}}
{{- mulf (regexFind "^[0-9]+(\\.[0-9]+)?" $text | float64) (get $factors (regexFind "[kmgt]" $text) | float64) | int64 -}}
{{- end -}}

{{/* Bytes of a Kubernetes quantity of memory: Gi is 1024^3, G is 1000^3. */}}
{{- define "dozlab.quantityBytes" -}}
{{- $text := include "dozlab.text" . | trim -}}
{{- $factors := dict "" 1 "k" 1000 "K" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "m" 0.001
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?([eE][0-9]+)?" $text -}}
{{- mulf (float64 $number) (get $factors (regexFind "[kKMGTPm]i?$" $text) | float64) | int64 -}}
{{- end -}}

{{/* A dozlab size as a Kubernetes quantity that means the same. */}}
{{- define "dozlab.quantity" -}}
{{- $text := include "dozlab.text" . | trim -}}
{{- if regexMatch "^[0-9]+[KMGT]i$" $text -}}{{ $text }}{{- else -}}{{ include "dozlab.bytes" . }}{{- end -}}
{{- end -}}

{{/* Seconds of a duration as dozlab writes it: 90s, 30m, 2h, 1d or a number. */}}
{{- define "dozlab.seconds" -}}
{{- $text := include "dozlab.text" . | trim -}}
{{- $factors := dict "" 1 "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- mul (regexFind "^[0-9]+" $text | int64) (get $factors (regexFind "[smhd]$" $text)) -}}
{{- end -}}

{{- define "dozlab.id" -}}{{ include "dozlab.text" .Values.session.id }}{{- end -}}

{{/* Name of the Pod; Secret, claims, routes and policies start with it. */}}
{{- define "dozlab.pod" -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride }}
{{- else -}}{{ .Values.nameOverride | default "lab-session" }}-{{ include "dozlab.id" . }}
{{- end -}}
{{- end -}}

{{- define "dozlab.service" -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride }}
{{- else -}}{{ .Values.nameOverride | default "lab-service" }}-{{ include "dozlab.id" . }}
{{- end -}}
{{- end -}}

{{- define "dozlab.secret" -}}
{{- .Values.codeServer.existingSecret.name | default (printf "%s-secrets" (include "dozlab.pod" .)) -}}
{{- end -}}

{{/* What finds this session's Pod and no other. */}}
{{- define "dozlab.selector" -}}
app: lab-environment
session-id: {{ include "dozlab.id" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The user's id becomes a label's value: jane@example.org is jane-example.org. */}}
{{- define "dozlab.labels" -}}
{{ include "dozlab.selector" . }}
user-id: {{ regexReplaceAll "[^A-Za-z0-9_.-]" (include "dozlab.text" .Values.session.userId) "-" | trunc 63 | trimAll "-_." | quote }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: session
app.kubernetes.io/part-of: dozlab
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- range $key, $value := .Values.labels }}
{{ $key }}: {{ include "dozlab.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* Annotations of every object: the user's id in full. */}}
{{- define "dozlab.annotations" -}}
dozlab.io/user-id: {{ include "dozlab.text" .Values.session.userId | toJson }}
{{- end -}}

{{/* A mapping of text, whatever type YAML gave its values. */}}
{{- define "dozlab.texts" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ include "dozlab.text" $value | toJson }}
{{- end }}
{{- end -}}

{{/* Image reference of one container: (list $ container). A name whose first part is a host is left alone. */}}
{{- define "dozlab.image" -}}
{{- $root := index . 0 -}}{{- $container := index . 1 -}}
{{- $name := $container.image -}}
{{- $first := splitList "/" $name | first -}}
{{- $named := and (contains "/" $name) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- if and $root.Values.image.registry (not $named) -}}{{- $name = printf "%s/%s" $root.Values.image.registry $name -}}{{- end -}}
{{- $tag := include "dozlab.text" $container.tag | default (include "dozlab.text" $root.Values.image.tag) | default $root.Chart.AppVersion -}}
{{ $name }}:{{ $tag }}{{ with $container.digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* securityContext of a container that needs nothing, with the user's laid over: (container.securityContext). */}}
{{- define "dozlab.securityContext" -}}
{{- $base := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true
  "runAsUser" 1000 "runAsGroup" 1000 "capabilities" (dict "drop" (list "ALL")) -}}
{{- toYaml (mergeOverwrite $base (deepCopy (. | default dict))) -}}
{{- end -}}

{{/* The user that owns the tap: the VMM's. */}}
{{- define "dozlab.vmUid" -}}
{{- $uid := dig "runAsUser" (dig "runAsUser" 1000 .Values.podSecurityContext) .Values.firecracker.securityContext -}}
{{- include "dozlab.text" $uid -}}
{{- end -}}

{{/* Resources of a container, with one of each device: (list resources device...). */}}
{{- define "dozlab.resources" -}}
{{- $resources := deepCopy (first . | default dict) -}}
{{- $limits := $resources.limits | default dict -}}
{{- range rest . }}{{- $_ := set $limits .resource "1" -}}{{- end -}}
{{- with $limits }}
limits:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $resources.requests }}
requests:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The device requests of a container: (list $ "tun" "kvm"), as JSON. */}}
{{- define "dozlab.devices" -}}
{{- $values := (first .).Values -}}{{- $found := list -}}
{{- range rest . -}}
{{- $device := get $values.devices . -}}
{{- if or $device.enabled (and (eq . "kvm") $values.firecracker.requireKvm) -}}{{- $found = append $found $device -}}{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* One probe: (list probe port scheme). With a path it is HTTP or HTTPS, without it TCP. */}}
{{- define "dozlab.probe" -}}
{{- $probe := index . 0 -}}
{{- if hasKey $probe "path" }}
httpGet:
  path: {{ $probe.path | quote }}
  port: {{ index . 1 }}
  {{- if eq (index . 2) "HTTPS" }}
  scheme: HTTPS
  {{- end }}
{{- else }}
tcpSocket:
  port: {{ index . 1 }}
{{- end }}
initialDelaySeconds: {{ int $probe.initialDelaySeconds }}
periodSeconds: {{ int $probe.periodSeconds }}
timeoutSeconds: {{ int $probe.timeoutSeconds }}
failureThreshold: {{ int $probe.failureThreshold }}
{{- end -}}

{{/* The three probes of a container: (list container port), and HTTPS where it speaks TLS. */}}
{{- define "dozlab.probes" -}}
{{- $port := index . 1 -}}{{- $scheme := rest (rest .) | first | default "HTTP" -}}
{{- with index . 0 }}
{{- if .startupProbe.enabled }}
startupProbe:
  {{- include "dozlab.probe" (list .startupProbe $port $scheme) | trim | nindent 2 }}
{{- end }}
{{- if .readinessProbe.enabled }}
readinessProbe:
  {{- include "dozlab.probe" (list .readinessProbe $port $scheme) | trim | nindent 2 }}
{{- end }}
{{- if .livenessProbe.enabled }}
livenessProbe:
  {{- include "dozlab.probe" (list .livenessProbe $port $scheme) | trim | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the terminal and its proxy to web servers in the guest speak. */}}
{{- define "dozlab.terminalScheme" -}}
{{- with .Values.terminal.tls -}}{{ ternary "https" "http" (or (ne .existingSecret.name "") (ne .certFile "")) }}{{- end -}}
{{- end -}}

{{/* Where init-rootfs finds the base image: the mounted one, else the addresses in the order of trying. */}}
{{- define "dozlab.imageAddresses" -}}
{{- with .Values.rootfs -}}
{{- if .imageVolume.reference -}}file:///image/image.ext4.zst
{{- else -}}{{ prepend .mirrors .imageUrl | join " " }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether init-rootfs gets certificates of the user's. */}}
{{- define "dozlab.ownCa" -}}
{{- with .Values.rootfs.ca -}}{{- if or .existingSecret.name .configMap.name -}}yes{{- end -}}{{- end -}}
{{- end -}}

{{/* Source of a volume: (list $ claim-suffix volume). */}}
{{- define "dozlab.volume" -}}
{{- $root := index . 0 -}}{{- $volume := index . 2 -}}
{{- $persistence := $volume.persistence -}}
{{- if $persistence.existingClaim }}
persistentVolumeClaim:
  claimName: {{ $persistence.existingClaim }}
{{- else if $persistence.enabled }}
persistentVolumeClaim:
  claimName: {{ include "dozlab.pod" $root }}-{{ index . 1 }}
{{- else }}
emptyDir:
  sizeLimit: {{ include "dozlab.quantity" $volume.sizeLimit | quote }}
{{- end }}
{{- end -}}

{{/* Origins that the terminal takes pages from: the user's, else those of the routes made here and of a port-forward. */}}
{{- define "dozlab.origins" -}}
{{- $origins := .Values.terminal.allowedOrigins -}}
{{- if not $origins -}}
{{- with .Values.ingress -}}
{{- if and .enabled .terminal.host -}}
{{- $host := .terminal.host -}}{{- $scheme := "http" -}}
{{- range .tls -}}{{- if has $host .hosts -}}{{- $scheme = "https" -}}{{- end -}}{{- end -}}
{{- $origins = append $origins (printf "%s://%s" $scheme $host) -}}
{{- end -}}
{{- end -}}
{{- with .Values.httpRoute -}}
{{- if and .enabled .terminal.host -}}
{{- $origins = append $origins (printf "%s://%s" (ternary "https" "http" .tls) .terminal.host) -}}
{{- end -}}
{{- end -}}
{{- if $origins -}}
{{- $scheme := include "dozlab.terminalScheme" . -}}
{{- $origins = concat $origins (list (printf "%s://localhost:8081" $scheme) (printf "%s://127.0.0.1:8081" $scheme)) -}}
{{- end -}}
{{- end -}}
{{- join "," $origins -}}
{{- end -}}

{{/* Whether the session serves one of vscode, terminal, ports: (list $ name). */}}
{{- define "dozlab.serves" -}}
{{- $values := (index . 0).Values -}}
{{- $is := dict "vscode" $values.codeServer.enabled "terminal" $values.terminal.enabled "ports" (and $values.terminal.enabled $values.ports.enabled) -}}
{{- if get $is (index . 1) -}}yes{{- end -}}
{{- end -}}

{{- define "dozlab.portsPort" -}}{{ ternary "8082" "0" (eq (include "dozlab.serves" (list . "ports")) "yes") }}{{- end -}}

{{/* Where browsers find the proxy to web servers in the guest: the user's word, else the route made here. */}}
{{- define "dozlab.portsOrigin" -}}
{{- $origin := .Values.ports.origin -}}
{{- with .Values.ingress -}}
{{- if and (not $origin) .enabled .ports.host -}}
{{- $host := .ports.host -}}{{- $scheme := "http" -}}
{{- range .tls -}}{{- if has $host .hosts -}}{{- $scheme = "https" -}}{{- end -}}{{- end -}}
{{- $origin = printf "%s://%s" $scheme $host -}}
{{- end -}}
{{- end -}}
{{- with .Values.httpRoute -}}
{{- if and (not $origin) .enabled .ports.host -}}
{{- $origin = printf "%s://%s" (ternary "https" "http" .tls) .ports.host -}}
{{- end -}}
{{- end -}}
{{- $origin -}}
{{- end -}}

{{- define "dozlab.terminalPath" -}}{{ .Values.terminal.basePath | default "/" }}{{- end -}}

{{/* Networks as a list with commas; a single address is a network of one. */}}
{{- define "dozlab.networks" -}}
{{- $found := list -}}
{{- range . -}}{{- $found = append $found (ternary . (printf "%s/32" .) (contains "/" .)) -}}{{- end -}}
{{- join "," $found -}}
{{- end -}}
