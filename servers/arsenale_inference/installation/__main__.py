"""`python -m arsenale_inference.installation`: install the inference engine."""

from arsenale_inference.installation.installer import main

if __name__ == "__main__":
    main()
