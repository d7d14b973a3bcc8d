FROM base
RUN touch /0
FROM base
RUN touch /1
#: target 0
