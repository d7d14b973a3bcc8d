FROM base AS Build
RUN echo 1 > /1
FROM build AS two
RUN echo 2 > /2
FROM scratch AS third
COPY --from=1 /2 /
FROM base as last
COPY --from=BUILD /1 /a
COPY --from=2 /2 /b
COPY --from=two /1 /2 /c/
