# check=skip=StageNameCasing,FromAsCasing;error=true
FROM base as Casing
LABEL a=b
