FROM base
COPY --link a.txt /opt/opaque
