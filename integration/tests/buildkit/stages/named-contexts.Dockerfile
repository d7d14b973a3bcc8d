FROM base AS replaced
RUN exit 1
FROM base
COPY --from=extra . /extra
COPY --from=extra f1 /one
COPY --from=replaced /sub/f2 /two
RUN --mount=from=extra,target=/e ls -A /e > /list
COPY --from=docker.io/library/other:latest /opt/data/a /a
#: context extra=dir
#: context replaced=dir
#: context other=base
