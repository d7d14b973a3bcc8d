FROM base
COPY link-to-file /f
#: refused
