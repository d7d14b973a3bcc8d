FROM base
COPY --link a.txt /opt/link
COPY --link b.txt /opt/absolute/b
COPY --link a.txt /lib/x
