FROM base AS parent
ONBUILD COPY a.txt /from-trigger
ONBUILD RUN echo "$X" > /x
ONBUILD ENV Y=trigger
ONBUILD COPY --from=other /o /o
ENV X=parent
FROM base AS other
RUN echo o > /o
FROM parent
ENV X=child
RUN echo "$Y" > /y
