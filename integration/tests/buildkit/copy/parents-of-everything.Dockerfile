FROM base
COPY --parents . /p12/
