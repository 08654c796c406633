{{/*
Refuses values that cannot work, each fault in one line that names the value. The same words as src/dozlab/values.py
where one machine checks the same; types, unknown names and ranges are the schema's part.
*/}}
{{- define "dozlab.validate" -}}
{{- $faults := include "dozlab.faults" . | trim -}}
{{- if $faults -}}{{- fail $faults -}}{{- end -}}
{{- end -}}

{{- define "dozlab.byteRegex" -}}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]){{- end -}}

{{- define "dozlab.faults" -}}
{{- $byte := include "dozlab.byteRegex" . -}}
{{- $ip := printf "(%s\\.){3}%s" $byte $byte -}}
{{- $v := .Values -}}

{{- $id := include "dozlab.text" $v.session.id -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$" $id) }}
session.id: must be a DNS label: 1 to 40 of a-z, 0-9 and -, not first or last a - (got {{ $id | quote }})
{{- end -}}

{{- $mounted := $v.rootfs.imageVolume.reference -}}
{{- if $mounted -}}
{{- if or $v.rootfs.imageUrl $v.rootfs.mirrors }}
rootfs.imageVolume.reference: set beside rootfs.imageUrl or rootfs.mirrors; choose one
{{- end -}}
{{- if contains "://" $mounted }}
rootfs.imageVolume.reference: write it as a Pod names an image, without oci:// (got {{ $mounted | quote }})
{{- end -}}
{{- if semverCompare "<1.35.0-0" $.Capabilities.KubeVersion.Version }}
rootfs.imageVolume.reference: image volumes need Kubernetes 1.35 or newer, this is {{ $.Capabilities.KubeVersion.Version }}; rootfs.imageUrl takes the same image as oci://...
{{- end -}}
{{- if or $v.rootfs.auth.existingSecret.name (include "dozlab.ownCa" .) }}
rootfs.imageVolume.reference: rootfs.auth and rootfs.ca are for rootfs.imageUrl; here the kubelet logs in, with imagePullSecrets
{{- end -}}
{{- else if not $v.rootfs.imageUrl }}
rootfs.imageUrl: not set; give the URL of a base image (--set rootfs.imageUrl=https://...)
{{- else if regexMatch "://[^/\\s]*@" (include "dozlab.imageAddresses" .) }}
rootfs.imageUrl: a user or password in an address; put them into a Secret (rootfs.auth), or on one machine into the file that IMAGE_AUTH_FILE names
{{- else if not (regexMatch "^(https?|oci|file)://\\S+$" $v.rootfs.imageUrl) }}
rootfs.imageUrl: must be a URL that starts with https://, http://, oci:// or file:// (got {{ $v.rootfs.imageUrl | quote }})
{{- else if eq $v.rootfs.imageUrl "https://example.com/dozlab-k8s.ext4" }}
rootfs.imageUrl: this is the original chart's placeholder; give the URL of a base image
{{- end -}}

{{- range $at, $url := prepend $v.rootfs.mirrors ($v.rootfs.imageUrl | default "") -}}
{{- if and (hasPrefix "oci://" $url) (not (contains "@" (splitList "/" $url | rest | rest | first))) (not (regexMatch "^oci://([A-Za-z0-9.-]+|\\[[0-9a-fA-F:]+\\])(:[0-9]+)?/[a-z0-9]+((\\.|_|__|-+|/)[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$" $url)) }}
rootfs.{{ if $at }}mirrors.{{ sub $at 1 }}{{ else }}imageUrl{{ end }}: not the address of an image in a registry (oci://HOST[:PORT]/NAME[:TAG]; got {{ $url | quote }})
{{- end -}}
{{- end -}}
{{- with $v.rootfs.ca -}}
{{- if and .configMap.name .existingSecret.name }}
rootfs.ca: a ConfigMap and a Secret; name one of them
{{- end -}}
{{- end -}}
{{- with $v.terminal.tls -}}
{{- if ne (empty .certFile) (empty .keyFile) }}
terminal.tls: certFile and keyFile belong together; set both, or none
{{- else if and .existingSecret.name .certFile }}
terminal.tls.existingSecret.name: set beside terminal.tls.certFile; choose one
{{- end -}}
{{- end -}}

{{- $password := include "dozlab.text" $v.codeServer.password -}}
{{- if and (not $v.codeServer.existingSecret.name) (or $v.codeServer.enabled $v.terminal.enabled) -}}
{{- if not (trim $password) }}
codeServer.password: not set; choose one, or name a Secret in codeServer.existingSecret.name
{{- else if eq $password "CHANGE-ME-INSECURE-PASSWORD" }}
codeServer.password: this is the original chart's placeholder; choose one
{{- end -}}
{{- end -}}

{{- if and $v.snapshot.enabled (not $v.rootfs.cache.enabled) }}
snapshot.enabled: needs rootfs.cache.enabled, since snapshots lie in the node's cache (--set rootfs.cache.enabled=true)
{{- end -}}

{{- $sizes := dict "rootfs.diskSize" $v.rootfs.diskSize "firecracker.overhead" $v.firecracker.overhead "snapshot.sizeLimit" $v.snapshot.sizeLimit "terminal.recording.sizeLimit" $v.terminal.recording.sizeLimit -}}
{{- range $name, $volume := $v.volumes }}{{ $_ := set $sizes (printf "volumes.%s.sizeLimit" $name) $volume.sizeLimit }}{{ end -}}
{{- $bad := 0 -}}
{{- range $path, $size := $sizes -}}
{{- if not (regexMatch "^[0-9]+(\\.[0-9]+)?\\s*([KkMmGgTt][Ii]?[Bb]?|[Bb])?$" (include "dozlab.text" $size | trim)) }}{{ $bad = 1 }}
{{ $path }}: not a size: {{ include "dozlab.text" $size | quote }} (write 4G, 512Mi or a number of bytes)
{{- end -}}
{{- end -}}

{{- if not $bad -}}
{{- $disk := include "dozlab.bytes" $v.rootfs.diskSize | int64 -}}
{{- $workspace := include "dozlab.bytes" $v.volumes.workspace.sizeLimit | int64 -}}
{{- if lt $disk 67108864 }}
rootfs.diskSize: {{ include "dozlab.text" $v.rootfs.diskSize }} is too small; at least 64.0 MiB
{{- end -}}
{{- $recorded := and $v.terminal.enabled $v.terminal.recording.enabled -}}
{{- $recording := include "dozlab.recordingBytes" . | int64 -}}
{{- if and $recorded (lt $recording 1048576) }}
terminal.recording.sizeLimit: {{ include "dozlab.text" $v.terminal.recording.sizeLimit }} is too small; at least 1.0 MiB
{{- end -}}
{{- if gt (add $disk $workspace $recording) (include "dozlab.bytes" $v.volumes.vmData.sizeLimit | int64) }}
volumes.vmData.sizeLimit: {{ include "dozlab.text" $v.volumes.vmData.sizeLimit }} cannot hold rootfs.diskSize {{ include "dozlab.text" $v.rootfs.diskSize }} and volumes.workspace.sizeLimit {{ include "dozlab.text" $v.volumes.workspace.sizeLimit }}{{ if $recorded }} and terminal.recording.sizeLimit {{ include "dozlab.text" $v.terminal.recording.sizeLimit }}{{ end }}
{{- end -}}
{{- end -}}

{{- range $name, $range := dict "cpuCount" (list 1 32) "memory" (list 128 1048576) -}}
{{- $number := include "dozlab.text" (get $v.vm $name) | trim -}}
{{- if or (not (regexMatch "^[0-9]{1,9}$" $number)) (lt (atoi $number) (index $range 0)) (gt (atoi $number) (index $range 1)) }}
vm.{{ $name }}: must be a whole number from {{ index $range 0 }} to {{ index $range 1 }} (got {{ $number | quote }})
{{- else if and (eq $name "memory") (not $bad) $v.firecracker.resources.limits $v.firecracker.resources.limits.memory -}}
{{- $limit := $v.firecracker.resources.limits.memory -}}
{{- $need := add (mul (atoi $number) 1048576) (include "dozlab.bytes" $v.firecracker.overhead | int64) -}}
{{- if lt (include "dozlab.quantityBytes" $limit | int64) $need }}
firecracker.resources.limits.memory: {{ include "dozlab.text" $limit }} is less than vm.memory ({{ $number }} MiB) and firecracker.overhead ({{ include "dozlab.text" $v.firecracker.overhead }}) together: {{ div (add $need 1048575) 1048576 }}Mi
{{- end -}}
{{- end -}}
{{- end -}}

{{- $addresses := dict "network.gatewayIp" $v.network.gatewayIp "network.vmIp" $v.network.vmIp -}}
{{- range $at, $server := $v.network.dns }}{{ $_ := set $addresses (printf "network.dns.%d" $at) $server }}{{ end -}}
{{- $wrong := 0 -}}
{{- range $path, $address := $addresses -}}
{{- if not (regexMatch (printf "^%s$" $ip) $address) }}{{ $wrong = 1 }}
{{ $path }}: not an IPv4 address (got {{ $address | quote }})
{{- end -}}
{{- end -}}
{{- if not $wrong -}}
{{- $net := regexReplaceAll "[0-9]+$" $v.network.gatewayIp "" -}}
{{- if or (not (hasPrefix $net $v.network.vmIp)) (eq $v.network.vmIp $v.network.gatewayIp) }}
network.vmIp: {{ $v.network.vmIp }} must be another address of {{ $net }}0/24
{{- end -}}
{{- end -}}
{{- range $list := list "allow" "deny" -}}
{{- range $at, $network := get $v.network.egress $list -}}
{{- if not (regexMatch (printf "^%s(/0*(3[0-2]|[12]?[0-9]))?$" $ip) $network) }}
network.egress.{{ $list }}.{{ $at }}: not an IPv4 network such as 10.1.0.0/16 (got {{ $network | quote }})
{{- else if contains "/" $network -}}
{{- $number := 0 -}}{{- $size := 1 -}}
{{- range splitList "." (splitList "/" $network | first) }}{{ $number = add (mul $number 256) (atoi .) }}{{ end -}}
{{- range until (sub 32 (splitList "/" $network | last | atoi) | int) }}{{ $size = mul $size 2 }}{{ end -}}
{{- if mod $number $size }}
network.egress.{{ $list }}.{{ $at }}: {{ $network }} has host bits set; write the network's first address
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $at, $key := $v.ssh.authorizedKeys -}}
{{- if not (regexMatch "^(ssh-|ecdsa-|sk-)\\S+ [A-Za-z0-9+/]+=*( .*)?$" (trim $key)) }}
ssh.authorizedKeys.{{ $at }}: not an OpenSSH public key line (ssh-ed25519 AAAA... comment)
{{- end -}}
{{- end -}}

{{- range $key := list "app" "session-id" "user-id" "helm.sh/chart" -}}
{{- if hasKey $v.labels $key }}
labels.{{ $key }}: this label is the chart's own
{{- end -}}
{{- end -}}
{{- range $key, $value := $v.labels -}}
{{- if hasPrefix "app.kubernetes.io/" $key }}
labels.{{ $key }}: this label is the chart's own
{{- end -}}
{{- if not (regexMatch "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$" (include "dozlab.text" $value)) }}
labels.{{ $key }}: not a label's value: at most 63 of letters, digits, - _ . (got {{ include "dozlab.text" $value | quote }})
{{- end -}}
{{- end -}}

{{- range $kind := list "ingress" "httpRoute" -}}
{{- $route := get $v $kind -}}
{{- if $route.enabled -}}
{{- if not (or (and $route.vscode.host $v.codeServer.enabled) (and $route.terminal.host $v.terminal.enabled)) }}
{{ $kind }}.vscode.host: not set, nor {{ $kind }}.terminal.host; name the host of at least one
{{- else if and (eq $route.vscode.host $route.terminal.host) $v.codeServer.enabled $v.terminal.enabled (eq $route.vscode.path (include "dozlab.terminalPath" $)) }}
{{ $kind }}.terminal.host: the same host and path as {{ $kind }}.vscode; give each a host of its own, or set terminal.basePath and {{ $kind }}.vscode.path
{{- end -}}
{{- if and $route.ports.host (has $route.ports.host (list $route.terminal.host $route.vscode.host)) }}
{{ $kind }}.ports.host: the same host as the terminal's or the editor's; web servers in the guest need one of their own
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.ports.origin (has (lower $v.ports.origin) (include "dozlab.origins" . | lower | splitList ",")) }}
ports.origin: {{ $v.ports.origin }} is the terminal's; web servers in the guest need an origin of their own
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}
httpRoute.parentRefs: not set; name the Gateway ({name: ...})
{{- end -}}
{{- end -}}

{{/* Asked by the template that Helm renders first, so that `--set terminal=null` is told here and nowhere deeper. */}}
{{- define "dozlab.groups" -}}
{{- $groups := list "session" "rootfs" "snapshot" "network" "firecracker" "vm" "ssh" "terminal" "ports" "codeServer" "volumes" "image" "initContainers"
  "devices" "service" "ingress" "httpRoute" "networkPolicy" "serviceMonitor" "tests" -}}
{{- range $groups }}{{ if not (kindIs "map" (get $.Values .)) }}{{ fail (printf "%s: null is no group of values; leave it out for the defaults" .) }}{{ end }}{{ end -}}
{{- end -}}
