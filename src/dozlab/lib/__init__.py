"""Small tools that know nothing of labs. Nothing here may import another room of dozlab."""
