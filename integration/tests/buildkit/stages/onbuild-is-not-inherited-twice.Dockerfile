FROM triggering AS child
FROM child
RUN ls /work > /listed
