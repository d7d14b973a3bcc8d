FROM base AS Tests
LABEL t=1
FROM base
RUN exit 1
#: target tESTS
