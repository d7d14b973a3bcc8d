FROM base
COPY --parents special/group/./ /q/
