FROM base AS one
ENV A=1
WORKDIR /w
USER app
EXPOSE 1
LABEL l=1
SHELL ["/bin/busybox", "sh", "-c"]
ARG GONE=1
CMD ["c"]
HEALTHCHECK CMD x
FROM one AS two
ENV B=$A$GONE
LABEL m=2
RUN echo "$0 $GONE $A" > /tmp/x
COPY a.txt .
FROM two
USER 0
