FROM base
COPY a.txt /opt/dangling
