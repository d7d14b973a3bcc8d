FROM base
COPY --chown=app a.txt /name
COPY --chown=app:staff a.txt /both
COPY --chown=12 a.txt /number
COPY --chown=12:34 dir /n/made/
COPY --chown=app:34 dir /mixed
COPY --chown=1000:audio a.txt /named-group
RUN echo 'late:x:77:78::/:/bin/sh' >> /etc/passwd
COPY --chown=late a.txt /late
USER app
COPY a.txt /of-root
COPY dir /tmp/made/by/root
