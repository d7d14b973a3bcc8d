FROM base
RUN mkdir -m 0777 /out
USER app
RUN id > /out/1 && echo "$HOME" >> /out/1
USER app:staff
RUN id > /out/2
USER 1000
RUN id > /out/3 && echo "$HOME" >> /out/3
USER 1000:44
RUN id > /out/4
USER guest
RUN id > /out/5 && echo "$HOME" >> /out/5
USER 4242
RUN id > /out/6 && echo "$HOME" >> /out/6
USER 4242:4343
RUN id > /out/7
USER root
RUN id > /out/8 && echo "$HOME $USER" >> /out/8
