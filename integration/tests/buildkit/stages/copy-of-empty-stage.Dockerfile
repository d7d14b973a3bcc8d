FROM scratch AS nothing
FROM base
COPY --from=nothing / /x/
