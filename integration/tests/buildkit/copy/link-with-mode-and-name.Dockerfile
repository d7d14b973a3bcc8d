FROM base
COPY --link --chmod=0640 a.txt /opt/link/x
COPY --link --chmod=u+x --chown=app:staff dir /opt/data/deep
