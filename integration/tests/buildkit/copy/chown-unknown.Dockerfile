FROM base
COPY --chown=nobody-here a.txt /x
