FROM base
COPY hard /hard
COPY hard hard-three /together/
COPY hard/one hard/two /apart/
COPY --from=base /opt /opt-copy
COPY --chown=app --from=base /opt/one /opt/two /x/
