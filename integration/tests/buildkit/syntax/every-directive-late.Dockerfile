FROM base
# escape=`
RUN echo a \
  b > /a
LABEL a=b\ c d="e f" "quoted key"=g h='i "j"' k=l\
m
LABEL legacy one two three
ENV legacy with  two   spaces
ENV trailing behind 
MAINTAINER Some One <some@example.org>
