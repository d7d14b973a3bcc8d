FROM scratch
WORKDIR /x/y
USER 5:6
WORKDIR z
COPY a.txt .
