FROM base
RUN mkdir /x /x/p /x/l && echo f > /x/d && ln -s /x /y
ADD archives/plain.tar /x
