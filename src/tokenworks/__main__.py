from tokenworks.app.cli import main

main()
