{{- define "tokenworks.labels" -}}
app.kubernetes.io/name: tokenworks
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tokenworks.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What every pod may do: nothing. */ -}}
{{- define "tokenworks.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tokenworks.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* A Secret's files are mounted as links that the group can read; Tokenworks refuses secrets that others can read. */ -}}
{{- define "tokenworks.privateFiles" -}}
- name: private-files
  image: {{ include "tokenworks.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -ec, "install -m 0600 -t /secrets /files/*"]
  securityContext:
    {{- include "tokenworks.security" . | nindent 4 }}
  volumeMounts:
    - {name: files, mountPath: /files, readOnly: true}
    - {name: secrets, mountPath: /secrets}
{{- end }}

{{- define "tokenworks.volumes" -}}
- name: files
  secret: {secretName: {{ .Values.secrets.files }}, defaultMode: 0440}
- name: secrets
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: tmp
  emptyDir: {}
{{- end }}

{{- define "tokenworks.environment" -}}
- name: TOKENWORKS_SECRETS_DIR
  value: /secrets
- name: TOKENWORKS_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.secrets.database }}, key: url}}
{{- range $name, $value := .Values.settings }}
- name: TOKENWORKS_{{ $name | upper }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
