FROM base
COPY dir /opt/dangling
