FROM base
WORKDIR /opt/dangling
COPY a.txt here
