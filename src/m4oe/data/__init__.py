"""From a study to samples: tables, splits, readers, transforms, schemas, and generated cohorts."""
