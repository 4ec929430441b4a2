{{- define "triplane.bpf" -}}
{{- if eq .Values.bpf "auto" -}}
{{- if or (eq .Values.mode "nft") (eq .Values.mode "ipvs") -}}off{{- else -}}on{{- end -}}
{{- else -}}
{{- .Values.bpf -}}
{{- end -}}
{{- end -}}
