ARG TAG=se
ARG STAGE=first
FROM ba$TAG AS first
FROM ${STAGE} AS second
ARG N=1 U=app M=0640 D=/made
ENV HOME=/h
COPY --chown=$U:staff --chmod=$M a.txt $D/
COPY --from=first /opt/data/a $D/$N
ADD --chown=${U} b.txt ${D}/${N}b
RUN echo ~ > /tilde
WORKDIR $D
USER $U
ONBUILD RUN echo $N
HEALTHCHECK CMD test $N
CMD echo $N
ENTRYPOINT ["$N"]
SHELL ["/bin/$N"]
