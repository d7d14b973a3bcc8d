FROM base
COPY . /c
COPY link-to-file /f
COPY link-to-dir /d
