FROM scratch
COPY --chown=12 dir /a/b
COPY --chown=12:0 --chmod=0 a.txt /c
