FROM base AS b
COPY --from=base /opt/data/a /kept
COPY --from=base /opt/data /tree
COPY --from=base --chmod=0600 --chown=5:5 /opt/data/a /changed
COPY special/sparse /of-context
