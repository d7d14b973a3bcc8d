FROM triggering
ENV AFTER=1
RUN cat /work/a.txt > /read
