FROM base AS first
RUN mkdir -p /out/d && echo 1 > /out/f && ln /out/f /out/d/g && ln -s f /out/l && ln -s /out /abs && chown -R 7:50 /out && chmod 4711 /out/f
RUN setup() { chmod 2770 /out/d; mkfifo /out/pipe; touch -d @1000000000 /out/f; }; setup
FROM base AS Second
COPY --from=FIRST /out /copy
FROM scratch
COPY --from=0 /out/f /zero
COPY --from=1 /copy /one/
COPY --from=second /copy/l /link
COPY --from=first /abs /through
COPY --from=first /abs/d/g /opt/
COPY --from=first /out/* /all/
COPY --from=base /opt/data /opt/two /opt/one /base/
COPY --from=base --chown=5 /opt/sgid /sgid/
COPY --from=base /opt/link /opt/link/a /lk/
