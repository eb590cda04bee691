from tokenworks.cli.main import main

main()
