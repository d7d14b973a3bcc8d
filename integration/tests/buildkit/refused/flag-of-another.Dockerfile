FROM base
RUN --chown=1 true
#: refused
