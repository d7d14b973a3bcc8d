FROM base
COPY --chown=:video a.txt /group-only
