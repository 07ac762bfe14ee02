{{- define "lance.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "lance.selector" -}}
app.kubernetes.io/name: lance
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lance.labels" -}}
{{ include "lance.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "lance.secret" -}}
{{- .Values.cluster.existingSecret | default (printf "%s-cluster" (include "lance.name" .)) -}}
{{- end -}}

{{- define "lance.headless" -}}
{{- printf "%s-nodes" (include "lance.name" .) -}}
{{- end -}}

{{- define "lance.peers" -}}
{{- $peers := list -}}
{{- range $ordinal := until (int .Values.replicaCount) -}}
{{- $peers = append $peers (printf "%s-%d.%s:%d" (include "lance.name" $) $ordinal (include "lance.headless" $) (int $.Values.ports.client)) -}}
{{- end -}}
{{- if gt (len $peers) 1 -}}{{- $peers | toJson -}}{{- else -}}[]{{- end -}}
{{- end -}}

{{/* A value as TOML: numbers that YAML read as floats stay whole. */}}
{{- define "lance.toml.value" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- else if kindIs "map" . -}}
{{- $fields := list -}}
{{- range $key, $value := . -}}{{- $fields = append $fields (printf "%s = %s" $key (include "lance.toml.value" $value)) -}}{{- end -}}
{ {{ join ", " $fields }} }
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}
