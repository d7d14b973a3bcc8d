FROM scratch
COPY --from=extra . /
#: context extra=src
