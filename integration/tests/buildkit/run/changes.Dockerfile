FROM base
RUN rm -rf /opt/opaque && mkdir /opt/opaque && echo n > /opt/opaque/new
RUN rm /opt/one && rm -r /srv && mv /opt/data /opt/moved
RUN chmod 0700 /etc && chown 7:50 /etc/passwd
RUN echo more >> /opt/two && ln /opt/two /opt/three && ln -s /opt/two /link
RUN touch /empty && mkdir -p /a/b/c && chmod 1777 /a && chown 1000:1000 /a/b
RUN mkfifo /pipe
RUN rm -r /opt/opaque/new && touch /opt/opaque/other
RUN mkdir /gone && touch /gone/x
RUN rm -r /gone
RUN rm /opt/link && mkdir /opt/link && touch /opt/link/x
RUN rm -r /opt/sgid && echo file > /opt/sgid
RUN true
RUN cp -a /home/app /home/copy && truncate -s 1M /sparse
