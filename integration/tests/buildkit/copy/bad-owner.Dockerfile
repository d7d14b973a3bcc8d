FROM base
COPY --chown=a:b:c a.txt /
