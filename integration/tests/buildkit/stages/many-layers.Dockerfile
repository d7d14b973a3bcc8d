FROM base AS a
RUN touch /a
FROM a AS b
RUN touch /b && rm /a
FROM b AS c
COPY --from=a /a /again
FROM b
COPY --from=c / /root-of-c
COPY --from=c --chown=5:6 /again /a
