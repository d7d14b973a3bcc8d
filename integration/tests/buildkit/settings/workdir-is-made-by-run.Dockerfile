FROM base
USER app
RUN mkdir /tmp/w && cd /tmp/w && touch f
WORKDIR /tmp/w
RUN touch g && pwd > p
WORKDIR new
RUN touch h
