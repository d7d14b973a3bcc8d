FROM base
LABEL b=2 a=1
LABEL a=3
EXPOSE 80 443/tcp 53/UDP 8000-8002 9000-9001/udp 80/tcp
USER app:staff
VOLUME /v1 /v2
VOLUME ["/v 3", "/v1"]
STOPSIGNAL 9
STOPSIGNAL SIGTERM
SHELL ["/bin/sh", "-x", "-c"]
CMD echo shell form
HEALTHCHECK --interval=5m --timeout=3.5s --start-period=1m30s --start-interval=2s --retries=4 CMD curl -f http://localhost/ || exit 1
ONBUILD RUN echo "one" 'two'
ONBUILD COPY --chown=app a.txt /dest
ONBUILD  LABEL   spaces="a  b"
ENTRYPOINT ["/bin/sh", "-c"]
WORKDIR /w
WORKDIR rel
WORKDIR ../up
