FROM base
COPY dir /opt/one
#: refused
