FROM base AS a
RUN echo first > /which
FROM base AS a
RUN echo second > /which
FROM base
COPY --from=a /which /which
