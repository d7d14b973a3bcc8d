FROM base
COPY --parents link-to-dir/f1 /p10/
