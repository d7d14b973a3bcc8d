FROM configured
RUN echo "$0 $OF_BASE $PWD $(id -u):$(id -g)" > /tmp/who
COPY a.txt .
HEALTHCHECK --retries=9 CMD ["x"]
ONBUILD RUN true
