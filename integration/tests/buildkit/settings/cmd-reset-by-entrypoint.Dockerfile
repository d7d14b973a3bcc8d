FROM base AS one
CMD ["from-base"]
FROM one AS two
ENTRYPOINT ["e"]
FROM two AS three
CMD ["own"]
ENTRYPOINT ["e2"]
FROM three
ENTRYPOINT ["e3"]
CMD []
